"""The page: what the box is doing and why, for people; made by the server, with nothing from afar.

A view is a module with ``routes(site)``, a template that extends ``frame.html``, and its texts in
``languages/en.json`` and ``languages/zh.json``. What changes while it is looked at is sent as the
same piece of the template again (``live``), and the browser puts it in its place.
"""
