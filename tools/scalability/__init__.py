"""
How many clients can have an accelerator at once: queues that belong to one client each against one that all share.

``kinds`` says which queues there are and who has them, ``client`` is one client, ``watch`` looks at the silicon's
queues, ``experiment`` lets them all run, ``chart`` draws what came of it. ``pykernel demo scalability`` shows it.
"""
