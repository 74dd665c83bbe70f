"""The judge: a local instruct model that reads an answer by one yes/no question a criterion."""
