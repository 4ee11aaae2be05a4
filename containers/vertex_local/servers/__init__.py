"""The model servers behind endpoints: what an image stands for, and the processes that it becomes."""
