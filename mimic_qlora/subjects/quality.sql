-- The checks of MIMIC-IV's rows. Each is a block; an empty line ends it. Its fields are
--   check: the name, which several blocks may share
--   tables: the tables that are checked, each as {table} in the query
--   with: other tables that it needs, where there are any
--   finds: the sentence on what was found
--   worst: how it ends ("at worst ...") with the largest {worst}, where faults have a size
-- In checks of all tables {table} has all columns of the file, listed as {columns}; in others, those
-- of MIMIC-IV alone.
-- The query returns one row (subject_id, worst) for each faulty row; worst is a number, an interval
-- or NULL. It sees the patients of one bucket with all their rows, so it may compare the rows of
-- one patient, but not those of two patients; shared.{table} holds the ids of stays, as `id`, that
-- stand with two. In tables of MIMIC-IV a text is without the blanks around it, null where it
-- stands for nothing, as NULL and "" do, and a word of mimic/words.py is in MIMIC-IV's capitals.

-- check: negative length of stay
-- tables: icustays
-- finds: a length of stay below zero
-- worst: by {worst} days
SELECT subject_id, -los AS worst FROM {table} WHERE los < 0

-- check: discharge before admission
-- tables: admissions
-- finds: leaves before arriving
-- worst: by {worst}
SELECT subject_id, admittime - dischtime AS worst FROM {table} WHERE dischtime < admittime

-- check: stop before start
-- tables: prescriptions pharmacy
-- finds: stops before it starts
-- worst: by {worst}
SELECT subject_id, starttime - stoptime AS worst FROM {table} WHERE stoptime < starttime

-- check: stop before start
-- tables: inputevents ingredientevents procedureevents
-- finds: ends before it starts
-- worst: by {worst}
SELECT subject_id, starttime - endtime AS worst FROM {table} WHERE endtime < starttime

-- check: stop before start
-- tables: icustays transfers edstays
-- finds: leaves before arriving
-- worst: by {worst}
SELECT subject_id, intime - outtime AS worst FROM {table} WHERE outtime < intime

-- check: stop before start
-- tables: admissions
-- finds: leaves the emergency department before arriving there
-- worst: by {worst}
SELECT subject_id, edregtime - edouttime AS worst FROM {table} WHERE edouttime < edregtime

-- check: overlapping stays
-- tables: admissions
-- finds: begins before an earlier hospital stay of the patient ends
-- worst: by {worst}
SELECT subject_id, earlier - admittime AS worst
FROM (SELECT subject_id, admittime, max(dischtime) OVER (
        PARTITION BY subject_id ORDER BY admittime, dischtime ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
      ) AS earlier FROM {table})
WHERE admittime < earlier

-- check: overlapping stays
-- tables: icustays edstays
-- finds: begins before an earlier stay of the patient there ends
-- worst: by {worst}
SELECT subject_id, earlier - intime AS worst
FROM (SELECT subject_id, intime, max(outtime) OVER (
        PARTITION BY subject_id ORDER BY intime, outtime ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
      ) AS earlier FROM {table})
WHERE intime < earlier

-- check: ICU stay outside its hospital stay
-- tables: icustays
-- with: admissions
-- finds: begins before or ends after its hospital stay
-- worst: by {worst}
SELECT subject_id, greatest(admittime - intime, outtime - dischtime) AS worst
FROM {table} JOIN stays USING (subject_id, hadm_id) WHERE intime < admittime OR outtime > dischtime

-- check: length of stay is not the time between
-- tables: icustays
-- finds: los differs from outtime - intime
-- worst: by {worst} days
SELECT subject_id, abs(los - epoch(outtime - intime) / 86400) AS worst
FROM {table} WHERE abs(los - epoch(outtime - intime) / 86400) > 0.01

-- check: death before admission
-- tables: admissions
-- finds: dies before arriving
-- worst: by {worst}
SELECT subject_id, admittime - deathtime AS worst FROM {table} WHERE deathtime < admittime

-- check: death after discharge
-- tables: admissions
-- finds: dies in the stay but after its end
-- worst: by {worst}
SELECT subject_id, deathtime - dischtime AS worst FROM {table} WHERE deathtime > dischtime

-- check: death flag and time disagree
-- tables: admissions
-- finds: hospital_expire_flag and deathtime contradict each other
SELECT subject_id, NULL AS worst FROM {table} WHERE (hospital_expire_flag = 1) <> (deathtime IS NOT NULL)

-- check: death before last discharge
-- tables: patients
-- with: admissions
-- finds: dod lies before the day of the last discharge
-- worst: by {worst}
SELECT subject_id, date_trunc('day', max(dischtime)) - any_value(dod) AS worst
FROM {table} JOIN admissions USING (subject_id)
GROUP BY subject_id HAVING any_value(dod) < date_trunc('day', max(dischtime))

-- check: after death
-- tables: admissions
-- with: patients
-- finds: admitted more than a day after dod
-- worst: {worst} after it
SELECT subject_id, admittime - dod AS worst
FROM {table} JOIN patients USING (subject_id) WHERE admittime > dod + INTERVAL 2 DAY

-- check: after death
-- tables: prescriptions
-- with: patients
-- finds: starts more than a day after dod
-- worst: {worst} after it
SELECT subject_id, starttime - dod AS worst
FROM {table} JOIN patients USING (subject_id) WHERE starttime > dod + INTERVAL 2 DAY

-- check: after death
-- tables: labevents emar
-- with: patients
-- finds: charted more than a day after dod
-- worst: {worst} after it
SELECT subject_id, charttime - dod AS worst
FROM {table} JOIN patients USING (subject_id) WHERE charttime > dod + INTERVAL 2 DAY

-- check: far from its stay
-- tables: prescriptions
-- with: admissions
-- finds: starts more than a day before or after the stay that it names
-- worst: by {worst}
SELECT subject_id, greatest(admittime - starttime, starttime - dischtime) AS worst
FROM {table} JOIN stays USING (subject_id, hadm_id)
WHERE starttime < admittime - INTERVAL 1 DAY OR starttime > dischtime + INTERVAL 1 DAY

-- check: far from its stay
-- tables: labevents emar microbiologyevents
-- with: admissions
-- finds: charted more than a day before or after the stay that it names
-- worst: by {worst}
SELECT subject_id, greatest(admittime - charttime, charttime - dischtime) AS worst
FROM {table} JOIN stays USING (subject_id, hadm_id)
WHERE charttime < admittime - INTERVAL 1 DAY OR charttime > dischtime + INTERVAL 1 DAY

-- check: far from its stay
-- tables: procedures_icd
-- with: admissions
-- finds: done more than a day before or after the stay that it names
-- worst: by {worst}
SELECT subject_id, greatest(admittime - chartdate, chartdate - dischtime) AS worst
FROM {table} JOIN stays USING (subject_id, hadm_id)
WHERE chartdate < date_trunc('day', admittime) - INTERVAL 1 DAY OR chartdate > dischtime + INTERVAL 1 DAY

-- check: stored before it happened
-- tables: labevents microbiologyevents emar chartevents datetimeevents outputevents
-- finds: storetime lies before charttime
-- worst: by {worst}
SELECT subject_id, charttime - storetime AS worst FROM {table} WHERE storetime < charttime

-- check: stored before it happened
-- tables: inputevents ingredientevents procedureevents
-- finds: storetime lies before starttime
-- worst: by {worst}
SELECT subject_id, starttime - storetime AS worst FROM {table} WHERE storetime < starttime

-- check: orphan hadm_id
-- tables: {all}
-- with: admissions
-- finds: hadm_id is not one of the patient's hospital stays
SELECT subject_id, NULL AS worst
FROM {table} ANTI JOIN admissions USING (subject_id, hadm_id) WHERE hadm_id IS NOT NULL

-- check: orphan stay_id
-- tables: chartevents datetimeevents ingredientevents inputevents outputevents procedureevents
-- with: icustays
-- finds: stay_id is not one of the patient's ICU stays
SELECT subject_id, NULL AS worst
FROM {table} ANTI JOIN icustays USING (subject_id, stay_id) WHERE stay_id IS NOT NULL

-- check: orphan stay_id
-- tables: diagnosis medrecon pyxis triage vitalsign
-- with: edstays
-- finds: stay_id is not one of the patient's emergency stays
SELECT subject_id, NULL AS worst
FROM {table} ANTI JOIN edstays USING (subject_id, stay_id) WHERE stay_id IS NOT NULL

-- check: rows that stand twice
-- tables: {all}
-- finds: repeats a row of the same table in every column
-- worst: {worst} times
-- (by the row's 64-bit hash among one patient's rows: whole rows as keys would take ten times the memory)
SELECT subject_id, unnest(range(1, count(*))) + 1 AS worst
FROM {table} GROUP BY subject_id, hash({columns}) HAVING count(*) > 1

-- check: id that stands twice
-- tables: admissions
-- finds: repeats a hadm_id that has a row already
SELECT subject_id, unnest(range(1, count(*))) + 1 AS worst
FROM {table} GROUP BY subject_id, hadm_id HAVING count(*) > 1

-- check: id that stands twice
-- tables: icustays edstays
-- finds: repeats a stay_id that has a row already
SELECT subject_id, unnest(range(1, count(*))) + 1 AS worst
FROM {table} GROUP BY subject_id, stay_id HAVING count(*) > 1

-- check: id that stands twice
-- tables: labevents
-- finds: repeats a labevent_id that has a row already
SELECT subject_id, unnest(range(1, count(*))) + 1 AS worst
FROM {table} GROUP BY subject_id, labevent_id HAVING count(*) > 1

-- check: id that stands twice
-- tables: pharmacy
-- finds: repeats a pharmacy_id that has a row already
SELECT subject_id, unnest(range(1, count(*))) + 1 AS worst
FROM {table} GROUP BY subject_id, pharmacy_id HAVING count(*) > 1

-- check: id that stands twice
-- tables: diagnoses_icd procedures_icd
-- finds: repeats a place (seq_num) in a stay's list of codes
SELECT subject_id, unnest(range(1, count(*))) + 1 AS worst
FROM {table} GROUP BY subject_id, hadm_id, seq_num HAVING count(*) > 1

-- check: far outside the reference range
-- tables: labevents
-- finds: above 100 times the upper reference limit
-- worst: {worst} times
SELECT subject_id, valuenum / ref_range_upper AS worst
FROM {table} WHERE ref_range_upper > 0 AND valuenum > 100 * ref_range_upper

-- check: far outside the reference range
-- tables: labevents
-- finds: above zero but below a hundredth of the lower reference limit
-- worst: {worst} times below
SELECT subject_id, ref_range_lower / valuenum AS worst
FROM {table} WHERE valuenum > 0 AND valuenum < ref_range_lower / 100

-- check: far outside the reference range
-- tables: chartevents
-- with: d_items
-- finds: above 100 times the upper normal value of its item
-- worst: {worst} times
SELECT subject_id, valuenum / highnormalvalue AS worst
FROM {table} JOIN (SELECT itemid, max(highnormalvalue) AS highnormalvalue FROM d_items GROUP BY itemid)
USING (itemid) WHERE highnormalvalue > 0 AND valuenum > 100 * highnormalvalue

-- check: number that nobody has
-- tables: labevents
-- finds: a result that nobody has (steps 4 to 7 take it for one without a number)
-- worst: {worst}
SELECT subject_id, abs(valuenum) AS worst
FROM {table} JOIN (VALUES {lab_bounds}) AS bounds(itemid, least, most) USING (itemid)
WHERE valuenum NOT BETWEEN least AND most

-- check: negative where that cannot be
-- tables: labevents
-- finds: below zero where its reference range is not
-- worst: by {worst}
SELECT subject_id, -valuenum AS worst FROM {table} WHERE valuenum < 0 AND ref_range_lower >= 0

-- check: negative where that cannot be
-- tables: outputevents
-- finds: a volume below zero
-- worst: by {worst}
SELECT subject_id, -value AS worst FROM {table} WHERE value < 0

-- check: negative where that cannot be
-- tables: inputevents ingredientevents
-- finds: an amount or a rate below zero
-- worst: by {worst}
SELECT subject_id, -least(amount, rate) AS worst FROM {table} WHERE amount < 0 OR rate < 0

-- check: reference range upside down
-- tables: labevents
-- finds: the lower reference limit is above the upper one
-- worst: by {worst}
SELECT subject_id, ref_range_lower - ref_range_upper AS worst FROM {table} WHERE ref_range_lower > ref_range_upper

-- check: no key
-- tables: admissions
-- finds: has no hadm_id or no admittime (steps 2 to 7 leave it out)
SELECT subject_id, NULL AS worst FROM {table} WHERE hadm_id IS NULL OR admittime IS NULL

-- check: no key
-- tables: icustays
-- finds: has no stay_id or no intime (steps 2 to 7 leave it out)
SELECT subject_id, NULL AS worst FROM {table} WHERE stay_id IS NULL OR intime IS NULL

-- check: no key
-- tables: diagnoses_icd
-- finds: has no hadm_id, icd_code or icd_version (steps 2 to 7 leave it out)
SELECT subject_id, NULL AS worst FROM {table} WHERE hadm_id IS NULL OR icd_code IS NULL OR icd_version IS NULL

-- check: no key
-- tables: procedures_icd
-- finds: has no hadm_id, chartdate, icd_code or icd_version (steps 4 to 7 leave it out)
SELECT subject_id, NULL AS worst FROM {table}
WHERE hadm_id IS NULL OR chartdate IS NULL OR icd_code IS NULL OR icd_version IS NULL

-- check: no key
-- tables: labevents
-- finds: has no labevent_id
SELECT subject_id, NULL AS worst FROM {table} WHERE labevent_id IS NULL

-- check: no key
-- tables: labevents chartevents
-- finds: has no itemid or no charttime (steps 4 to 7 leave it out)
SELECT subject_id, NULL AS worst FROM {table} WHERE itemid IS NULL OR charttime IS NULL

-- check: no key
-- tables: prescriptions
-- finds: has no drug or no starttime (steps 4 to 7 leave it out)
SELECT subject_id, NULL AS worst FROM {table} WHERE drug IS NULL OR starttime IS NULL

-- check: code without a title
-- tables: diagnoses_icd
-- with: d_icd_diagnoses
-- finds: has a code that d_icd_diagnoses has no title for
SELECT subject_id, NULL AS worst FROM {table} ANTI JOIN (
  FROM d_icd_diagnoses WHERE long_title IS NOT NULL) USING (icd_code, icd_version)
WHERE icd_code IS NOT NULL AND icd_version IS NOT NULL

-- check: code without a title
-- tables: procedures_icd
-- with: d_icd_procedures
-- finds: has a code that d_icd_procedures has no title for
SELECT subject_id, NULL AS worst FROM {table} ANTI JOIN (
  FROM d_icd_procedures WHERE long_title IS NOT NULL) USING (icd_code, icd_version)
WHERE icd_code IS NOT NULL AND icd_version IS NOT NULL

-- check: code without a title
-- tables: labevents
-- with: d_labitems
-- finds: has an item that d_labitems has no name for (its number stands for it)
SELECT subject_id, NULL AS worst FROM {table} ANTI JOIN (
  FROM d_labitems WHERE label IS NOT NULL) USING (itemid)
WHERE itemid IS NOT NULL

-- check: code without its zeros
-- tables: diagnoses_icd procedures_icd
-- finds: has an ICD-9 code of fewer digits than there are, as where leading zeros were cut
SELECT subject_id, NULL AS worst FROM {table} WHERE icd_version = 9 AND length(icd_code) < 3

-- check: code with two titles
-- tables: diagnoses_icd
-- with: d_icd_diagnoses
-- finds: has a code for which d_icd_diagnoses has two titles (the first one counts)
SELECT subject_id, NULL AS worst FROM {table} SEMI JOIN (
  SELECT icd_code, icd_version FROM d_icd_diagnoses
  GROUP BY ALL HAVING count(DISTINCT long_title) > 1) USING (icd_code, icd_version)

-- check: code with two titles
-- tables: procedures_icd
-- with: d_icd_procedures
-- finds: has a code for which d_icd_procedures has two titles (the first one counts)
SELECT subject_id, NULL AS worst FROM {table} SEMI JOIN (
  SELECT icd_code, icd_version FROM d_icd_procedures
  GROUP BY ALL HAVING count(DISTINCT long_title) > 1) USING (icd_code, icd_version)

-- check: code with two titles
-- tables: labevents
-- with: d_labitems
-- finds: has an item for which d_labitems has two names (the first one counts)
SELECT subject_id, NULL AS worst FROM {table} SEMI JOIN (
  SELECT itemid FROM d_labitems GROUP BY itemid HAVING count(DISTINCT label) > 1) USING (itemid)

-- check: stay of two patients
-- tables: admissions
-- finds: is a hospital stay that stands with another patient too (each counts as the patient's own)
SELECT subject_id, NULL AS worst FROM {table} WHERE hadm_id IN (SELECT id FROM shared.{table})

-- check: stay of two patients
-- tables: icustays edstays
-- finds: is a stay that stands with another patient too (each counts as the patient's own)
SELECT subject_id, NULL AS worst FROM {table} WHERE stay_id IN (SELECT id FROM shared.{table})

-- check: word of another form
-- tables: patients
-- finds: gender is neither F nor M, in any capitals (steps 3 to 7 take the sex as not known)
SELECT subject_id, NULL AS worst FROM {table} WHERE gender IS NULL OR gender NOT IN ('F', 'M')

-- check: word of another form
-- tables: prescriptions
-- finds: drug_type is not MAIN, BASE or ADDITIVE, in any capitals (prompts show MAIN alone)
SELECT subject_id, NULL AS worst FROM {table} WHERE drug_type NOT IN ('MAIN', 'BASE', 'ADDITIVE')

-- check: word of another form
-- tables: diagnoses_icd procedures_icd
-- finds: icd_version is neither 9 nor 10 (steps 2 to 7 do not know what such a code means)
SELECT subject_id, NULL AS worst FROM {table} WHERE icd_version NOT IN (9, 10)

-- check: word of another form
-- tables: omr
-- finds: result_value is no number, or of a blood pressure no two (prompts leave it out)
SELECT subject_id, NULL AS worst FROM {table}
WHERE NOT regexp_full_match(result_value, CASE result_name
  WHEN 'Blood Pressure' THEN '\d+/\d+' ELSE '\d+(\.\d+)?' END)
AND result_name IN ('Blood Pressure', 'Weight (Lbs)', 'BMI (kg/m2)', 'Height (Inches)')

-- check: age out of range
-- tables: patients
-- finds: anchor_age is not within 18 to 91 (above 89 all are given as 91)
SELECT subject_id, NULL AS worst FROM {table} WHERE anchor_age NOT BETWEEN 18 AND 91

-- check: weight out of range
-- tables: inputevents procedureevents
-- finds: patientweight is not within 20 to 500 kg
SELECT subject_id, NULL AS worst FROM {table} WHERE patientweight NOT BETWEEN 20 AND 500

-- check: vital sign out of range
-- tables: vitalsign triage
-- finds: heart rate above 400, blood pressure above 500 or oxygen saturation above 100
-- worst: {worst}
SELECT subject_id, greatest(heartrate, sbp, dbp, o2sat) AS worst
FROM {table} WHERE heartrate > 400 OR sbp > 500 OR dbp > 500 OR o2sat > 100

-- check: body mass index out of range
-- tables: omr
-- finds: a body mass index outside {bmi_low} to {bmi_high}
SELECT subject_id, NULL AS worst
FROM {table} WHERE starts_with(result_name, 'BMI') AND TRY_CAST(result_value AS DOUBLE) NOT BETWEEN {bmi_low} AND {bmi_high}

-- check: weight that changes too much
-- tables: omr
-- finds: a weight more than {most_change} times one of the year before, or less than 1/{most_change} of it
-- worst: {worst} times
SELECT subject_id, ratio AS worst
FROM (SELECT subject_id, greatest(pounds / min(pounds) OVER year, max(pounds) OVER year / pounds) AS ratio
      FROM (SELECT subject_id, chartdate, TRY_CAST(result_value AS DOUBLE) AS pounds
            FROM {table} WHERE starts_with(result_name, 'Weight'))
      WHERE pounds > 0
      WINDOW year AS (PARTITION BY subject_id ORDER BY chartdate
                      RANGE BETWEEN INTERVAL {year} DAYS PRECEDING AND CURRENT ROW))
WHERE ratio > {most_change}

-- check: kilograms in the pounds field
-- tables: omr
-- finds: a weight in pounds that looks like kilograms, as another within a year is 2.2 times as much
WITH weights AS (
  SELECT subject_id, chartdate, TRY_CAST(result_value AS DOUBLE) AS pounds
  FROM {table} WHERE result_name = 'Weight (Lbs)')
SELECT subject_id, NULL AS worst FROM weights AS one
WHERE pounds > 0 AND EXISTS (
  FROM weights AS other
  WHERE other.subject_id = one.subject_id AND other.pounds / one.pounds BETWEEN {kilograms_low} AND {kilograms_high}
    AND abs(date_diff('day', one.chartdate, other.chartdate)) <= {year})
