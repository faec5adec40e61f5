"""Plans a run before any machine is rented: sizes of models, memory, time and money from formulas alone."""
