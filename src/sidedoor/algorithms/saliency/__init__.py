"""Which pixels an output rests on."""
