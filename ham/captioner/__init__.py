"""LLaVA-1.6 with style prompts: the captioner that speaks like thousands of annotators (stage 2, and the model of stage 3)."""
