"""What the owner of a box lets the page be."""

from broker_parts import free_port
from doors_kit import served
from support import Kernel, wait_until

READ = {"Accept": "text/html"}
JSON = {"content-type": "application/json"}


def test_an_owner_lets_the_page_show_less_and_nothing() -> None:
    port = free_port()
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080={port}"]\n')
    setting = kernel.config.parent / "plugins" / "gateway.toml"
    setting.parent.mkdir(parents=True)
    try:
        setting.write_text('page = "look"\n')
        doors = served(kernel.start(), port)
        assert doors.ask("GET", "/", headers=READ)[0] == 303
        status, _, said = doors.ask("GET", "/page/now", headers=READ)
        assert status == 200 and b"data-do=" not in said
        assert b"/page/try" not in said and b"/page/logs" not in said
        for path in ("/page/logs", "/page/logs/older", "/page/try"):
            assert doors.ask("GET", path, headers=READ)[0] == 404
        status, _, said = doors.ask("POST", "/page/now/stop", {"name": "echo"}, JSON)
        assert status == 403 and "show things only" in said["error"]["message"]
        setting.write_text('page = "none"\n')
        doors.client.admin("unload", "gateway")
        wait_until(lambda: not doors.client.query("workers")["workers"], "it has ended")
        doors = served(kernel, port)
        assert doors.ask("GET", "/", headers=READ)[2] == b"Ollama is running"
        for path in ("/page", "/page/now", "/page/static/0/page.css"):
            assert doors.ask("GET", path)[0] == 404
        assert kernel.stop() == 0
    finally:
        kernel.close_clients()
        kernel.remove()
