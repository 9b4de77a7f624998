"""Linear heads fused with their loss: chunks of columns, and the operators that take them one by one."""
