"""Step 4's prompts as token ids: encoded in parallel, once, and kept beside the prompts."""
