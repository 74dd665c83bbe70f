"""Step 4 (`make_symptom_prompts_ctx_dxpx.py`) writes `prompts/`: chat records for three splits.

`reader` reads them for steps 5 and 7; `audit` checks every statement against the chart.
"""
