"""A bounds-checked cursor over received octets: the only place where lengths are compared."""

from __future__ import annotations

from protocols.errors import DecodeError


class Reader:
    """Reads network-order integers and slices; every short read raises ``DecodeError``."""

    __slots__ = ("_data", "_end", "_offset")

    def __init__(self, data: bytes, offset: int = 0, end: int | None = None) -> None:
        self._data = data
        self._offset = offset
        self._end = len(data) if end is None else end

    @property
    def remaining(self) -> int:
        """Octets not read yet."""
        return self._end - self._offset

    @property
    def offset(self) -> int:
        """Position in the underlying octets."""
        return self._offset

    def take(self, length: int) -> bytes:
        """The next ``length`` octets."""
        start = self._offset
        stop = start + length
        if length < 0 or stop > self._end:
            raise DecodeError(f"{length} octets needed at offset {start}, {self._end - start} left")
        self._offset = stop
        return self._data[start:stop]

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self._end - self._offset)

    def sub(self, length: int) -> Reader:
        """A reader over the next ``length`` octets, which this one skips."""
        start = self._offset
        stop = start + length
        if length < 0 or stop > self._end:
            raise DecodeError(f"{length} octets needed at offset {start}, {self._end - start} left")
        self._offset = stop
        return Reader(self._data, start, stop)

    def skip(self, length: int) -> None:
        """Pass over ``length`` octets."""
        self.take(length)

    def u8(self) -> int:
        """One octet."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Two octets, network order."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Four octets, network order."""
        return int.from_bytes(self.take(4), "big")

    def finish(self, what: str) -> None:
        """Raise ``DecodeError`` unless everything was read."""
        if self._offset != self._end:
            raise DecodeError(f"{self._end - self._offset} octets left over after {what}")
