from clawai.sdk import operation


@operation("hello.greet")
def greet(name: str = "world") -> str:
    """Greet somebody."""
    return f"Hello, {name}!"
