"""Step 5 (`train_qlora.py`) writes `adapters/<run>/`: LoRA on a 4-bit base, packed rows."""
