"""Who step 3 studies: the patients with a coded stay, and when what is known of them counts."""

from mimic_qlora import database
from mimic_qlora.storage import UserError


def gather(con, hours: float):
    """The patients with a coded stay, as a table `cohort` of `con` and as a data frame in the order of subject_id.

    The index stay is the first coded one: what was coded earlier would give a chronic disease away, and one stay per
    patient keeps patients from counting twice. `as_of` is the landmark: `hours` after admission, or just before
    discharge where that came first. Raises UserError when there is no coded stay.
    """
    if "diagnoses_icd" not in database.names(con):
        raise UserError("the data has no diagnoses_icd: there is nothing to predict")
    con.execute(f"""
        CREATE TABLE cohort AS
        WITH coded AS (SELECT hadm_id, max(icd_version) AS icd_version FROM diagnoses_icd GROUP BY hadm_id),
             stays AS (SELECT a.*, c.icd_version,
                              row_number() OVER (PARTITION BY subject_id ORDER BY admittime, hadm_id) AS place
                       FROM admissions a JOIN coded c USING (hadm_id) WHERE a.admittime IS NOT NULL)
        SELECT subject_id, hadm_id, icd_version, split, admittime,
               least(admittime + INTERVAL 1 SECOND * {hours * 3600:.0f}, dischtime - INTERVAL 1 SECOND) AS as_of
        FROM stays JOIN split USING (subject_id) WHERE place = 1 ORDER BY subject_id""")
    people = con.execute("SELECT * FROM cohort ORDER BY subject_id").df()
    if people.empty:
        raise UserError("no patient has a stay with coded diagnoses: there is nothing to predict")
    return people
