"""The options of train and finetune: how they are read, and what is said of wrong ones."""
