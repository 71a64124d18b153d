"""Boxes that ship what they log and how they are to one box, whose page shows all of it.

``tail`` follows the log of a box, ``agent`` sends it (``claw boxes ship``), ``collector`` takes it
(``claw boxes collect``), ``shelf`` keeps it, ``views`` reads it for the kernel's listing ``boxes``.
``wire`` has the messages and every limit, ``keys`` who may, ``identity`` who this box is. See
docs/boxes.md.
"""
