"""Everything about bytes: files, both segment formats, the index's runs, recovery; no thread and no clock."""
