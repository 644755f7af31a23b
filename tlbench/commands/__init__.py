"""Commands: what `tlbench` does when typed, a noun each. Heavy imports wait until a command needs them."""
