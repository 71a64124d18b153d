from clawai.sdk import operation


@operation("{{prefix}}.greet")
def greet(name: str = "world") -> str:
    """Greet somebody.
    name: who is greeted."""
    return f"Hello, {name}!"
