"""Files of subscribers: the CSV of SIM vendors and a YAML form of everything, read and written as streams."""
