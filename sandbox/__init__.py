"""Process isolation: policy to rules, launch, probe. Imports nothing else of ours."""
