"""Values that cross process borders. Imports the standard library and pydantic alone."""
