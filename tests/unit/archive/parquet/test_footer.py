import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digitsum.archive.parquet.footer import row_groups

TABLE = pa.table(
    {
        "image_id": [f"image-{row}" for row in range(50)],
        "image": pa.array([bytes(6)] * 50, pa.binary(6)),
        "digit_sum": pa.array([*range(-3, 46), None], pa.int16()),
        "unsigned": pa.array([2**64 - 1, *range(49)], pa.uint64()),
        "digits": pa.array([[1, 2]] * 50, pa.list_(pa.int8())),
        "struct": pa.array([{"bytes": b"", "path": "a"}] * 50),
    }
)


def metadata_of(table: pa.Table, **options) -> pq.FileMetaData:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return pq.read_metadata(io.BytesIO(out.getvalue()))


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "lz4", "brotli"])
@pytest.mark.parametrize("rows", [0, 7, 50])
def test_row_groups_equal_pyarrows(compression, rows):
    metadata = metadata_of(TABLE.slice(0, rows), row_group_size=3, compression=compression)
    groups = row_groups(metadata, "a.parquet")
    assert len(groups) == metadata.num_row_groups
    for number, group in enumerate(groups):
        expected = metadata.row_group(number)
        assert group.num_rows == expected.num_rows
        for place, column in enumerate(group.columns):
            one = expected.column(place)
            names = (one.path_in_schema, one.compression, one.num_values)
            assert (column.path, column.codec, column.num_values) == names
        assert group.column("nothing") is None


@pytest.mark.parametrize(("name", "signed"), [("digit_sum", True), ("unsigned", False)])
def test_integer_range_equals_pyarrows(name, signed):
    metadata = metadata_of(TABLE, row_group_size=50)
    expected = metadata.row_group(0).column(TABLE.column_names.index(name)).statistics
    [group] = row_groups(metadata, "a.parquet")
    label_range = group.column(name).integer_range(signed=signed)
    assert label_range == (expected.min, expected.max, expected.null_count)


def test_integer_range_without_statistics():
    nulls = TABLE.slice(49).select(["digit_sum"])
    for metadata in (metadata_of(TABLE, write_statistics=False), metadata_of(nulls)):
        [group] = row_groups(metadata, "a.parquet")
        assert group.column("digit_sum").integer_range(signed=True) is None
