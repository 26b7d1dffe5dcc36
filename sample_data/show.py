"""Prints a few rows of an output folder's tables, read back with polars.

usage: python sample_data/show.py OUT
"""

import sys

import polars as pl

out = sys.argv[1]
wide = pl.read_parquet(f"{out}/wide/*.parquet").sort("source_row")
with pl.Config(tbl_rows=10, fmt_str_lengths=40, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
    columns = ("report_id", "rads_assignment", "n_staging", "m_staging", "abnormality_detection")
    print(wide.select(columns).gather_every(24))
