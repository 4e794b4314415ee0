"""Rows of compressed tables, several times as fast as from PyTables.

Blosc in the wheels of PyTables takes several times as long to decompress images as that
of the package blosc2, which reads what either of them has compressed.
"""

import blosc2
import numpy as np
import tables

__all__ = ["RowReader"]

CHECKSUM_SIZE = 4  # bytes


class RowReader:
    """Reads rows of a table.

    What is not compressed, or not as PyTables does it with Blosc, or damaged, is left to
    PyTables, which knows what to say.

    Parameters
    ----------
    table : tables.Table
    """

    def __init__(self, table):
        self._table = table
        filters = table.filters
        self._has_checksum = filters.fletcher32
        self._is_blosc = (
            table.nrows > 0
            and filters.complevel > 0
            and filters.complib.split(":")[0] == "blosc"
            and self._first_chunk_is_equal()
        )

    def _first_chunk_is_equal(self):
        """Whether bytes are all there is to it; they are not for times, for example."""
        rows = self._read_chunks(0, 1)
        expected = self._table.read(0, len(rows))
        return rows[: len(expected)].tobytes() == expected.tobytes()

    def read(self, start, stop):
        """Some rows.

        Parameters
        ----------
        start, stop : int
            The first, and that after the last; there may be fewer.

        Returns
        -------
        rows : structured ndarray
            As of `tables.Table.read`.
        """
        stop = min(stop, self._table.nrows)
        if not self._is_blosc or start >= stop:
            return self._table.read(start, stop)
        size = self._table.chunkshape[0]
        first = start // size
        rows = self._read_chunks(first, -(-stop // size))
        return rows[start - first * size : stop - first * size]

    def _read_chunks(self, first, last):
        """All rows of some chunks."""
        size = self._table.chunkshape[0]
        rows = np.empty((last - first) * size, dtype=self._table.dtype)
        for i in range(last - first):
            chunk = rows[i * size : (i + 1) * size]
            start = (first + i) * size
            if not self._decompress(start, chunk.view(np.uint8)):
                read = self._table.read(start, start + size)
                chunk[: len(read)] = read
        return rows

    def _decompress(self, start, output):
        """Fill in the chunk that begins with a row; returns whether that was possible."""
        try:
            if self._table.chunk_info((start,)).filter_mask:
                return False
            data = self._table.read_chunk((start,))
            if self._has_checksum:
                data, checksum = data[:-CHECKSUM_SIZE], data[-CHECKSUM_SIZE:]
                if fletcher32(data) != int.from_bytes(checksum, "little"):
                    return False
            if blosc2.get_cbuffer_sizes(data)[0] != output.nbytes:
                return False
            blosc2.decompress(data, dst=output)
        except (tables.HDF5ExtError, tables.NoSuchChunkError, RuntimeError, ValueError):
            return False
        return True


def fletcher32(data):
    """Checksum that HDF5 puts behind the bytes of a chunk.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    checksum : int
    """
    words = np.frombuffer(data + b"\0" * (len(data) % 2), dtype=">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64)
    low, high = (int(total) for total in (words.sum(), words @ weights))
    # modulo 2^16 - 1, with 2^16 - 1 for 0 but where all is 0
    low, high = (total and (total - 1) % 0xFFFF + 1 for total in (low, high))
    return high << 16 | low
