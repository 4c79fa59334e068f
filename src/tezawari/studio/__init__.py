"""The studio: collect, judge, segment and restyle in a browser."""
