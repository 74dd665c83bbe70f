"""The words of MIMIC-IV's tables that steps compare or tell, as MIMIC-IV writes them.

Databases lower what they keep, at times, or pad it: a word that differs in capitals or blanks alone
is read as it stands here (`subjects.reader`, `subjects.sql`). Step 1 flags a column without any
of its words. The audit has this list too, and reads it for itself.
"""

from typing import Final

WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {  # table -> column -> words
    "patients": {"gender": ("F", "M")},
    "admissions": {
        "admission_type": (
            *("AMBULATORY OBSERVATION", "DIRECT EMER.", "DIRECT OBSERVATION", "ELECTIVE"),
            *("EU OBSERVATION", "EW EMER.", "OBSERVATION ADMIT", "SURGICAL SAME DAY ADMISSION"),
            "URGENT",
        ),
        "discharge_location": (
            *("HOME", "HOME HEALTH CARE", "SKILLED NURSING FACILITY", "REHAB", "DIED", "HOSPICE"),
            *("CHRONIC/LONG TERM ACUTE CARE", "AGAINST ADVICE", "PSYCH FACILITY", "ACUTE HOSPITAL"),
            *("OTHER FACILITY", "ASSISTED LIVING", "HEALTHCARE FACILITY"),
        ),
        "insurance": ("Medicare", "Medicaid", "Private", "Other", "No charge"),
        "marital_status": ("DIVORCED", "MARRIED", "SINGLE", "WIDOWED"),
    },
    "services": {
        "curr_service": (
            *("CMED", "CSURG", "DENT", "ENT", "EYE", "GU", "GYN", "MED", "NB", "NBB", "NMED"),
            *("NSURG", "OBS", "OMED", "ORTHO", "PSURG", "PSYCH", "SURG", "TRAUM", "TSURG", "VSURG"),
        ),
    },
    "prescriptions": {
        "drug_type": ("MAIN", "BASE", "ADDITIVE"),
        "route": (
            *("PO", "PO/NG", "PO/OG", "PO/G TUBE", "ORAL", "NG", "OG", "NG/OG", "G TUBE", "J TUBE"),
            *("DOBHOFF", "SL", "BU", "BUCCAL", "IV", "IV DRIP", "IV BOLUS", "IVPCA", "DWELL"),
            *("LOCK", "DIALYS", "IM", "SC", "SUBCUT", "ID", "PERIPHNERVE", "ED", "IT", "IH", "INH"),
            *("NEB", "INHALATION", "IN", "NU", "NAS", "PR", "VG", "TP", "TD", "OU", "OD", "OS"),
            *("BOTH EYES", "LEFT EYE", "RIGHT EYE", "AU", "AD", "AS", "BOTH EARS", "LEFT EAR"),
            "RIGHT EAR",
        ),
    },
    "labevents": {
        "valueuom": ("%", "K/uL", "g/dL", "mEq/L", "mg/dL", "mmol/L", "ng/mL"),
        "flag": ("abnormal",),
    },
    "omr": {
        "result_name": (
            *("Blood Pressure", "BMI", "BMI (kg/m2)", "eGFR", "Height", "Height (Inches)"),
            *("Weight", "Weight (Lbs)"),
        ),
    },
    "edstays": {
        "disposition": (
            *("ADMITTED", "ELOPED", "EXPIRED", "HOME", "LEFT AGAINST MEDICAL ADVICE"),
            *("LEFT WITHOUT BEING SEEN", "OTHER", "TRANSFER"),
        ),
    },
    "d_labitems": {"fluid": ("Blood",), "category": ("Blood Gas",)},
}
