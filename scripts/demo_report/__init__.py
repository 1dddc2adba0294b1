"""The report of `scripts/demo.sh`: one page over the files that the stages wrote."""
