"""Numbers to bits and back: quantisers, integer frequency tables, rANS, records. Imports numpy only."""
