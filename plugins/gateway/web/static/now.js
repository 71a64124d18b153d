import { live } from "./page.js";

live("/page/now/live");
