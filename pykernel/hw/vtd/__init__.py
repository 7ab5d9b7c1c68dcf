"""VT-d: the remapping unit as silicon. It knows tables and queues in memory, registers, and the slots of the bus."""
