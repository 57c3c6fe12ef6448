"""Pictures and tables of a notebook. They know data, no step."""
