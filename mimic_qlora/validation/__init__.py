"""Step 7 (`run_files/run.sh`) writes `validation/`: the same trials for every arm, scored and
compared.
"""
