--- 60. Sources that are bombs: 1e6 "(", 1e5 "{", a line of 10 MB, 70,000 locals. The test writes them.
-- special: sources
return {
}
