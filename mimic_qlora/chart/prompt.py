"""The user turn of a prompt: context and question, joined and split in one place."""

BREAK = "\n\nQuestion\n"
Message = dict[
    str, str
]  # one chat turn: {"role": "system", "user" or "assistant", "content": text}


def join_prompt(context: str, question: str) -> str:
    """Return the user turn that asks a question about a context."""
    return f"{context}{BREAK}{question}"


def split_prompt(user_turn: str) -> tuple[str, str]:
    """Return the context and the question of a user turn; the context may be empty."""
    context, _, question = user_turn.rpartition(BREAK)
    return context, question


def messages(system_prompt: str, context: str, question: str) -> list[Message]:
    """Return the system turn and the user turn of a prompt."""
    return [
        {"role": "system", "content": system_prompt},
        {"role": "user", "content": join_prompt(context, question)},
    ]
