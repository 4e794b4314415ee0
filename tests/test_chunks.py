"""Rows as PyTables gives them, which is the reference."""

import numpy as np
import pytest
import tables

from ctapipe_gphysnet.chunks import RowReader, fletcher32

N_ROWS, CHUNK = 50, 8
DTYPE = np.dtype([("event_id", "<i8"), ("image", "<f4", (37,)), ("valid", "?")])
RANGES = [(0, 50), (0, 8), (3, 5), (5, 21), (16, 24), (47, 60), (50, 60), (7, 7)]


class CountedTable:
    """A table that counts how often rows are read by PyTables."""

    def __init__(self, table):
        self._table, self.n_reads = table, 0

    def __getattr__(self, name):
        return getattr(self._table, name)

    def read(self, start, stop):
        self.n_reads += 1
        return self._table.read(start, stop)


@pytest.fixture
def rows():
    rng = np.random.default_rng(1)
    rows = np.zeros(N_ROWS, dtype=DTYPE)
    rows["event_id"] = np.arange(N_ROWS)
    rows["image"] = rng.poisson(0.1, (N_ROWS, 37))
    rows["valid"] = rng.random(N_ROWS) < 0.5
    return rows


@pytest.fixture
def table(tmp_path):
    """Function: a table of rows."""
    with tables.open_file(tmp_path / "rows.h5", "w") as file:

        def make(rows, complevel=1, complib="blosc:zstd", byteorder=None, **options):
            filters = tables.Filters(complevel, complib, **options)
            arguments = {"filters": filters, "chunkshape": (CHUNK,)}
            arguments["byteorder"] = byteorder
            made = file.create_table("/", "rows", obj=rows, **arguments)
            made.flush()
            return CountedTable(made)

        yield make


def assert_same(table, reader):
    for start, stop in RANGES:
        expected, read = table._table.read(start, stop), reader.read(start, stop)
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("complib", ["blosc", "blosc:lz4", "blosc:zlib", "blosc:zstd"])
def test_blosc_without_pytables(table, rows, complib, checksum):
    made = table(rows, complib=complib, fletcher32=checksum)
    reader = RowReader(made)
    made.n_reads = 0
    reader.read(0, N_ROWS)
    assert made.n_reads == 0
    assert_same(made, reader)


@pytest.mark.parametrize(
    ("complevel", "complib"), [(0, "blosc:zstd"), (1, "zlib"), (1, "blosc2:zstd")]
)
def test_compressed_otherwise(table, rows, complevel, complib):
    made = table(rows, complevel, complib, fletcher32=True)
    assert_same(made, RowReader(made))


def test_other_byte_order(table, rows):
    made = table(rows, byteorder="big")
    assert made.byteorder == "big"
    assert_same(made, RowReader(made))


def test_empty_table(table, rows):
    made = table(rows[:0])
    assert_same(made, RowReader(made))


@pytest.mark.parametrize("checksum", [False, True])
def test_chunk_that_is_not_compressed(table, rows, checksum):
    """As HDF5 writes one that compression would make larger."""
    made = table(rows, fletcher32=checksum)
    made.write_chunk((CHUNK,), rows[CHUNK : 2 * CHUNK].tobytes(), filter_mask=0b11)
    assert_same(made, RowReader(made))


def test_chunk_that_was_never_written(table, rows):
    made = table(rows)
    made.truncate(2 * N_ROWS)
    np.testing.assert_array_equal(
        RowReader(made).read(40, 2 * N_ROWS), made.read(40, 2 * N_ROWS)
    )


@pytest.mark.parametrize("start", [0, CHUNK])
@pytest.mark.parametrize("byte", [20, -1])
def test_damaged_chunk(table, rows, start, byte):
    """Among the data, or in the checksum; in the first chunk, or another."""
    made = table(rows, fletcher32=True)
    data = bytearray(made.read_chunk((start,)))
    data[byte] ^= 1
    made.write_chunk((start,), bytes(data))
    with pytest.raises(tables.HDF5ExtError):
        RowReader(made).read(0, N_ROWS)


@pytest.mark.parametrize("size", [1, 2, 997, 70_000])
@pytest.mark.parametrize("value", [0, 1, 255, None])
def test_checksum_is_that_of_hdf5(tmp_path, size, value):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    if value is not None:
        data[:] = value
    with tables.open_file(tmp_path / "data.h5", "w") as file:
        array = file.create_carray(
            "/",
            "data",
            obj=data,
            chunkshape=(size,),
            filters=tables.Filters(fletcher32=True),
        )
        array.flush()
        stored = array.read_chunk((0,))
    assert stored[:size] == data.tobytes()
    assert fletcher32(data.tobytes()) == int.from_bytes(stored[size:], "little")
