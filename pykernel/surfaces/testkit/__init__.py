"""
What tests are made with, below the pytest plugin: which kernel a test wants, its start, its verdict, programs, faults.

Nothing here imports the kernel before a test asks for one.
"""
