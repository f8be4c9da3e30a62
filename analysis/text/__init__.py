"""How values, tables and pictures are written, whoever makes them."""
