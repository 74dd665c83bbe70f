"""What training cost: likelihoods of gold answers, drift on neutral prompts, help in a crisis."""
