"""What compare.py is made of: data, ours, peers, the study of codes, and the report."""
