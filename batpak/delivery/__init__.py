"""Delivery: how events reach those who wait for them.

Nothing is queued for a consumer. Each keeps the global sequence up to which it has looked, takes what lies behind it
from the index, and waits to be told of more (``actors/announcer.py``). So a slow consumer costs the writer nothing,
and what a consumer sees is made of places, not of objects in one process.

``feed.py``          a region from a point on, in blocks: what all of them take from
``subscription.py``  live and lossy, with operators
``cursor.py``        `Follower` and `Cursor`: complete and in order
``places.py``        named places: how far a named cursor has come, on disk
``course.py``        what a worker does, decided without threads or event loops
``worker.py``        a course on a thread of its own
``reactor.py``       handlers, and reactors that answer events with events
``parking.py``       events that were set aside
"""
