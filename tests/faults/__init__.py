"""The live stack under faults: processes are killed, disks filled, replicas lie. ``make faults`` runs all of it."""
