"""The result of one scenario and why it is so: estimate, operator table, explanation, comparison."""
