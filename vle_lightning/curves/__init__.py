"""Learning curves of runs: small files to commit beside a table, and one picture of them."""
