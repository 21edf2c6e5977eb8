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
def test_a_footer_says_what_pyarrow_says_of_it(compression, rows):
    metadata = metadata_of(TABLE.slice(0, rows), row_group_size=3, compression=compression)
    found = row_groups(metadata, "a.parquet")
    assert len(found) == metadata.num_row_groups
    for number, group in enumerate(found):
        said = metadata.row_group(number)
        assert group.num_rows == said.num_rows
        for place, column in enumerate(group.columns):
            one = said.column(place)
            assert (column.path, column.codec, column.num_values) == (
                one.path_in_schema,
                one.compression,
                one.num_values,
            )


@pytest.mark.parametrize(("name", "signed"), [("digit_sum", True), ("unsigned", False)])
def test_the_range_of_integers_is_as_pyarrow_says(name, signed):
    metadata = metadata_of(TABLE, row_group_size=50)
    said = metadata.row_group(0).column(TABLE.column_names.index(name)).statistics
    [group] = row_groups(metadata, "a.parquet")
    expected = (said.min, said.max, said.null_count)
    assert group.column(name).integer_range(signed=signed) == expected


def test_no_range_is_told_without_statistics_and_of_nulls_alone():
    nulls = TABLE.slice(49).select(["digit_sum"])
    for metadata in (metadata_of(TABLE, write_statistics=False), metadata_of(nulls)):
        [group] = row_groups(metadata, "a.parquet")
        assert group.column("digit_sum").integer_range(signed=True) is None


def test_a_column_that_is_not_there_is_none():
    [group] = row_groups(metadata_of(TABLE), "a.parquet")
    assert group.column("nothing") is None
