"""The verbs for people: requests, pictures in, one fill, pictures out. Knows models and files; nothing of terminals,
servers or training.

    requests -> sources -> verbs (a grid with empty cells) -> sampling.fill -> tokenizer -> compose -> recipe -> output
"""
