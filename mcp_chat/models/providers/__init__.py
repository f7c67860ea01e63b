"""The providers of models: what each needs, what a user may bring, and how its package is made to dial."""
