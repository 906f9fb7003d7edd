"""Pipeline parallelism: consecutive blocks of a model in different processes, with PyTorch's schedules."""
