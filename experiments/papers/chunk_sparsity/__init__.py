"""The parts of the replica of Video-XL-2: documents, measurements, verdicts, tables, figures."""
