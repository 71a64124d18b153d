"""Does a client in another language speak the wire? ``python -m clawai.sdk.conformance COMMAND``.

The client is a program that takes orders on its standard input and says on its standard output what
the kernel told it, a line of JSON each (docs/clients.md has the orders and the events). It is run
against a real kernel with a test plugin (``live``), against a scripted peer that says what a real
kernel says rarely or not yet (``scripted``), and has to read and write the golden vectors
(``vectors``). What it prints is compared with sdk/WIRE.md, which is all that its author needs.
"""
