# SPDX-License-Identifier: Apache-2.0
"""Writes the files of test/datasets/files, as pyarrow and pandas write them: python3 data_files.py FOLDER."""
import gzip
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)

TEXTS = ["plain", "ü, “quotes” and \"quotes\"", "two\nlines", "crlf\r\nhere", "", None, "🜁 日本語\u2028end", " spaces , "]
rows = [
    {
        "text": text,
        "number": index,
        "score": index / 4,
        "flag": index % 2 == 0,
        "ids": list(range(index)),
        "meta": {"lang": "de" if index % 2 else "en", "tags": [f"t{index}", None]},
        "messages": [{"role": "user", "content": f"q{index}"}, {"role": "assistant", "content": text or ""}],
    }
    for index, text in enumerate(TEXTS)
]
table = pa.Table.from_pylist(rows)

for codec in ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]:
    pq.write_table(table, folder / f"{codec}.parquet", compression=codec, row_group_size=3)
pq.write_table(table, folder / "v2.parquet", version="2.6", data_page_version="2.0", use_dictionary=False)
pq.write_table(table.slice(0, 0), folder / "empty.parquet")

for codec in ["lz4", "zstd", "uncompressed"]:
    feather.write_feather(table, folder / f"{codec}.feather", compression=codec, chunksize=3)
with pa.ipc.new_stream(folder / "stream.arrow", table.schema) as writer:
    writer.write_table(table, max_chunksize=3)
long = pa.table({"text": [str(i % 7) * (i % 500) for i in range(2000)]})
feather.write_feather(long, folder / "long_lz4.feather", compression="lz4", chunksize=100000)

flat = pd.DataFrame({"text": ["" if text is None else text for text in TEXTS], "number": range(len(TEXTS))})
flat.to_csv(folder / "pandas.csv", index=False)
flat.to_csv(folder / "pandas_bom_crlf.csv", index=False, encoding="utf-8-sig", lineterminator="\r\n")
flat.to_csv(folder / "pandas.tsv.gz", index=False, sep="\t")
pd.DataFrame(rows).drop(columns=["ids"]).to_json(folder / "pandas.jsonl", orient="records", lines=True, force_ascii=False)
with gzip.open(folder / "pandas.json.gz", "wt", encoding="utf-8") as file:
    file.write(pd.DataFrame(rows).to_json(orient="records"))
pa.output_stream(str(folder / "lines.jsonl.zst"), compression="zstd").write(
    "".join(f'{{"text": "line {i}"}}\n' for i in range(1000)).encode()
)
