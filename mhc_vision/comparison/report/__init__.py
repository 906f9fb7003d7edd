"""What a comparison found: records, statistics, tables, pages."""
