"""Step 3 (`feature_select_xgb_columns.py`) writes `features/`: column importance by XGBoost."""
