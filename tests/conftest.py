"""What holds for every test."""

import asyncio

# looptime asks for the main thread's event loop before synchronous tests too. Unless told that there is none, Python
# before 3.14 makes one then, which nobody closes: a warning, hence an error, when a later test is collected.
asyncio.set_event_loop(None)
