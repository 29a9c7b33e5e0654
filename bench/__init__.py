"""The benchmark suite of fastcnn: `python -m bench --help`; how to read and how to extend it is in bench/README.md."""
